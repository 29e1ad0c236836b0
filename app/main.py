"""`streamlit run app/main.py`: the pages, and the run that they show."""

import gc
import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's folder on the path; a checkout that was not installed needs its root there too.
if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(root)

from app.shared import style

st.set_page_config(page_title="Ortho-LoRA", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
style.show()
# The pages take a second to import, in which the browser gets ready to draw. Nothing of theirs is garbage.
gc.disable()

from app.launching import under_way
from app.shared import address, links, places, state
from app.views import conflicts, diagnosis, launch, layers, learn, metrics, projection, runs, start, study, transfer

state.spare_imports()
gc.enable()
library = st.Page(runs.page, title="Runs", icon=":material/list:", url_path="runs")
training = {
    "Train": [st.Page(launch.page, title="Launch", icon=":material/rocket_launch:", url_path="launch"), library],
}
pages = {
    "": [
        st.Page(start.page, title="Start", icon=":material/home:", default=True),
        st.Page(learn.page, title="Learn", icon=":material/school:", url_path="learn"),
    ],
    **({} if places.read_only() else training),
    "Look": [
        *([library] if places.read_only() else []),
        st.Page(conflicts.page, title="Conflicts", icon=":material/grid_on:", url_path="conflicts"),
        st.Page(transfer.page, title="Transfer", icon=":material/swap_horiz:", url_path="transfer"),
        st.Page(layers.page, title="Layers", icon=":material/layers:", url_path="layers"),
        st.Page(projection.page, title="Projection", icon=":material/call_split:", url_path="projection"),
        st.Page(metrics.page, title="Metrics", icon=":material/show_chart:", url_path="metrics"),
        st.Page(diagnosis.page, title="Diagnosis", icon=":material/stethoscope:", url_path="diagnosis"),
        st.Page(study.page, title="Study", icon=":material/science:", url_path="study"),
    ],
}
chosen = st.navigation(pages, expanded=True)
links.register(page for section in pages.values() for page in section)
state.choose_runs()
address.arrive(chosen.url_path)
with st.sidebar:
    if chosen.url_path != "launch":  # which shows it at length
        under_way.show()
chosen.run()
