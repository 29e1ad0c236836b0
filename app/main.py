"""`streamlit run app/main.py`: the pages, and the run that they show."""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's folder on the path; a checkout that was not installed needs its root there too.
if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(root)

from app import state
from app.views import conflicts, launch, metrics, projection, runs

st.set_page_config(page_title="Ortho-LoRA", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
pages = [
    st.Page(runs.page, title="Runs", icon=":material/list:", default=True),
    st.Page(launch.page, title="Launch", icon=":material/rocket_launch:", url_path="launch"),
    st.Page(conflicts.page, title="Conflicts", icon=":material/grid_on:", url_path="conflicts"),
    st.Page(projection.page, title="Projection", icon=":material/call_split:", url_path="projection"),
    st.Page(metrics.page, title="Metrics", icon=":material/show_chart:", url_path="metrics"),
]
chosen = st.navigation(pages)
state.choose_run()
chosen.run()
