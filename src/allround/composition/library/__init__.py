"""A folder of modules of one base, each with a card: added, dropped and renamed without any other being touched."""
