"use strict";
// Give Select2's elements the label of their field, for screen readers.
const nameFields = () => {
    for (const select of document.querySelectorAll("select.admin-autocomplete")) {
        const label = select.labels[0]?.textContent.replace(":", "").trim() || select.name;
        const parts = select.nextElementSibling?.querySelectorAll("[role=combobox], [role=textbox]") || [];
        for (const part of parts) {
            part.removeAttribute("aria-labelledby");
            part.setAttribute("aria-label", label);
        }
    }
};
// An icon with a label has a role.
const nameIcons = () => {
    for (const icon of document.querySelectorAll(".help-tooltip[aria-label]")) icon.setAttribute("role", "img");
};
new MutationObserver(() => {
    nameFields();
    nameIcons();
}).observe(document.body, {childList: true, subtree: true});
nameFields();
nameIcons();
