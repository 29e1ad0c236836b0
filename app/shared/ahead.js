// Loads a file of Streamlit's own before it asks for it.
export default function ({ data }) {
  const own = document.querySelector('script[type="module"][src*="/static/js/"]');
  if (own && data.file) import(new URL(data.file, own.src)).catch(() => {}); // then it comes when it is asked for
}
