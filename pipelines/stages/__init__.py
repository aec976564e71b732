"""The kinds of stages, one module each: settings, needs, building and execution."""
