"""The entry point: `streamlit run streamlit_app.py`. The list of pages is `ui.enter`'s; nothing else happens here."""

from panorama import ui

ui.enter()
