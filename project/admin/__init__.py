"""The admin pages: views, forms and templates on Flask-Admin, behind a sign-in of their own.

Offers `pages.init_app`. create_app alone imports it.
"""
