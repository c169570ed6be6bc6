"""Training and its records: settings, setup of a fold, state, losses, schedule, engine, run directory."""
