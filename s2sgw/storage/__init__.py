"""Files of the state directory: written whole or not at all, and set aside if they are damaged; files of the operator."""
