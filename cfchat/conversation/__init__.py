"""What is asked: the model of a conversation, and how to read one out of what clients POST. Pure."""
