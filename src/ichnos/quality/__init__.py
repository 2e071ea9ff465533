"""May this scan be read?"""
