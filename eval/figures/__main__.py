import sys

from eval.figures import main

sys.exit(main())
