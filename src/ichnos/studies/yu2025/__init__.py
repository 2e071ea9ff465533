"""Yu 2025: will the haematoma grow?"""
