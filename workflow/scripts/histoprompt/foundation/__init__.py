"""The recipe of the embedded models in `resources/foundation/`: tiny models in the formats of the real ones."""
