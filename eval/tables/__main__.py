from eval.tables import main

raise SystemExit(main())
