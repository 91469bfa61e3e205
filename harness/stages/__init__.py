"""No epoch is trained twice: what a state follows from, its key, the store, the way of a run, the tree of a sweep."""
