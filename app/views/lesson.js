// Keeps the reader's guesses in this browser, and tells Python those of an earlier visit: once, when the page is opened.
const NAME = "ortho-lora-lesson";

export default function ({ data, parentElement, setTriggerValue }) {
  let kept = {};
  try {
    if (data.forget) localStorage.removeItem(NAME);
    kept = JSON.parse(localStorage.getItem(NAME)) ?? {};
    localStorage.setItem(NAME, JSON.stringify({ ...kept, ...data.guesses }));
  } catch { /* a browser that keeps nothing, or what is not ours */ }
  if (!parentElement.told && Object.keys(kept).some((key) => !(key in data.guesses))) setTriggerValue("kept", kept);
  parentElement.told = true;
}
