"""The forms of a reply on the way to the front end, one file each; `form` has what they share. Pure."""
