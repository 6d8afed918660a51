// Lets a file fill a text field; without scripts the text is pasted.
for (const input of document.querySelectorAll("input[type=file][data-fills]")) {
  const target = document.getElementById(input.dataset.fills);
  const field = input.closest("[data-needs-script]");
  if (field) field.hidden = false;
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file) target.value = await file.text();
  });
}
