"""The OpenAPI document, made from the Resources' signatures, and the page that shows it.

Offers two blueprints. create_app alone imports it.
"""
