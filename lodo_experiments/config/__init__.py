"""What a run is asked for: parameters, presets, schedules of tuning, folders."""
