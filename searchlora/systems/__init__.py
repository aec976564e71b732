"""Systems and their measurement: everything that is evaluated, compared or promoted is a `System`, run by `measure`."""
