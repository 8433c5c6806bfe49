"""How tasks relate: estimates of transfer, decisions from them, and scores against measured transfer."""
