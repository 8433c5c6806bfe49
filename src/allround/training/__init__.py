"""One trainer for one task and for many; heads fitted on a frozen encoder; ways to sample tasks."""
