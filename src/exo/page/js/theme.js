// Light, dark, or as the system has it.

import { announce } from "./dialogs.js";
import { byId, icon } from "./dom.js";
import { keep, kept } from "./kept.js";

const THEMES = ["auto", "light", "dark"];
/** @type {Record<string, string>} */
const NAMES = { auto: "automatic", light: "light", dark: "dark" };

export function mountTheme() {
  const button = byId("theme");
  let theme = kept("theme", "auto");
  const show = () => {
    document.documentElement.dataset.theme = theme;
    const label = `Theme: ${NAMES[theme]}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    button.replaceChildren(icon(theme));
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    keep("theme", theme);
    show();
    announce(button.title);
  });
  if (!THEMES.includes(theme)) theme = "auto";
  show();
}
