"""What a study shows: methods compared over seeds, with what is and what is not known. No torch, no Streamlit.

`findings.find` reads a study's directory and answers everything; the other modules answer one question each.
"""
