from eval.run import main
from indigo_jax import sharding

sharding.fix_threads()  # else the numbers depend on that of the devices
raise SystemExit(main())
