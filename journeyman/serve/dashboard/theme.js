// Before anything is drawn: light or dark as was chosen here, else as the system has it (look.css).
(() => {
  const chosen = localStorage.getItem("journeyman.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
