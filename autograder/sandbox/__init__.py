"""Layer 2: state what a submission may do, build the walls, launch it behind them, watch it, and end it."""
