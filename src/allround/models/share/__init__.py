"""What tasks share inside a model: banks of modules, gates that weigh them, and where they sit."""
