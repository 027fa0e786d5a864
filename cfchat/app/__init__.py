"""Joins the rooms: routes, the life of a chat, the page, health, the wiring."""
