"""The declarations, a module for each task: presets, set-up, variants, notebooks. `registry` lists them."""
