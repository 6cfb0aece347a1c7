"""``python -m indigo_jax.weights``: check the bundled files and write their manifest anew."""
from indigo_jax import weights

if __name__ == "__main__":
    for name, row in weights.update_manifest().items():
        print(f"{name}  {row['size']:,} bytes  sha256 {row['sha256']}")
