import sys

from eval.tables import main

sys.exit(main())
