// Stands in the head of every page, before Streamlit's own scripts, and is no module.

// Of another page than the Lab, Streamlit would look for the server below that page's address, be refused, and wait a while
// before it looks above.
window.__streamlit = { BACKEND_BASE_URL: new URL(".", document.baseURI).href };
