"""minituner: learn LoRA by writing it. Imports nothing, so a broken lab file breaks only itself."""
