"""The vocabulary: types of a round, layouts, seeds, configuration, registry, errors."""
