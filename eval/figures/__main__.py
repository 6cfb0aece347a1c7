from eval.figures import main

raise SystemExit(main())
