"""Where rows come from: files, folders, archives, the Hub and scikit-learn."""
