"""Training speed, memory and loss beside TRL and PEFT; see `__main__`."""
