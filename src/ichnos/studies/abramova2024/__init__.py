"""Abramova 2024: what will the haematoma look like tomorrow?"""
