"""What is asked: the model of a conversation, and the parsers of what clients POST. Pure."""
