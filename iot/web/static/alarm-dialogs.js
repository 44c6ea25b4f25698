/** The dialogs of alarms: acknowledge one, silence some, and see all silences. */

import { ruleName } from "./alarm-texts.js";
import { element, make, setText } from "./dom.js";
import { moment, parseTime } from "./format.js";
import { getJson, now, sendJson } from "./server.js";

const TIMEOUT_MS = 8_000;
const STORED_BY = "iot-dashboard-by";
const MINUTE_MS = 60_000;

/** Which alarms a silence is for: the fields of the alarm that must be the same. */
const SCOPES = {
  "rule-sensor": ["rule", "sensor_id"],
  sensor: ["sensor_id"],
  "rule-location": ["rule", "location"],
  rule: ["rule"],
};

function storedBy() {
  try {
    return localStorage.getItem(STORED_BY) ?? "";
  } catch {
    return ""; // The browser does not allow storage.
  }
}

function storeBy(by) {
  try {
    localStorage.setItem(STORED_BY, by);
  } catch {
    // It is asked for the next time.
  }
}

const equal = (name, value) => ({ name, value, isRegex: false, isEqual: true });

/** "rule is HIGH_TEMPERATURE, sensor_id is sensor_7". */
function matchersText(matchers) {
  return matchers
    .map(({ name, value, isRegex, isEqual = true }) => {
      const verb = isRegex ? (isEqual ? "matches" : "does not match") : isEqual ? "is" : "is not";
      return `${name} ${verb} ${value || "empty"}`;
    })
    .join(", ");
}

export class AlarmDialogs {
  #on;
  #alarm = null;
  #silences = [];

  /** @param {object} on changed(alarm): the server has changed it; silences(): they have changed. */
  constructor(on) {
    this.#on = on;
    for (const name of ["ack", "silence", "silences"]) {
      const dialog = element(`${name}-dialog`);
      for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
      // A click beside the dialog closes it.
      dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close());
    }
    this.#wire("ack", (form) => this.#sendAcknowledgement(form));
    this.#wire("silence", (form) => this.#sendSilence(form));
    element("silence-form").elements.scope.forEach((radio) =>
      radio.addEventListener("change", () => this.#showMatchers()),
    );
  }

  set silences(silences) {
    this.#silences = silences;
    if (element("silences-dialog").open) this.#showSilences();
  }

  /** Asks who takes care of an alarm; takes an acknowledgement back. */
  acknowledge(alarm) {
    if (alarm.acknowledged) {
      this.#takeBack(alarm);
      return;
    }
    this.#open("ack", alarm);
  }

  silence(alarm) {
    this.#open("silence", alarm);
    this.#showMatchers();
  }

  list() {
    this.#showProblem("silences", "");
    this.#showSilences();
    element("silences-dialog").showModal();
  }

  #open(name, alarm) {
    this.#alarm = alarm;
    const form = element(`${name}-form`);
    form.reset();
    form.elements.by.value = storedBy();
    this.#showProblem(name, "");
    setText(element(`${name}-of`), `${ruleName(alarm)}, ${[alarm.sensor_id, alarm.location].filter(Boolean).join(", ")}`);
    element(`${name}-dialog`).showModal();
    (form.elements.by.value ? form.elements.comment : form.elements.by).focus();
  }

  #wire(name, send) {
    element(`${name}-form`).addEventListener("submit", async (event) => {
      event.preventDefault();
      const form = event.target;
      const submit = form.querySelector("[type=submit]");
      if (submit.disabled) return;
      submit.disabled = true;
      try {
        await send(form);
        storeBy(form.elements.by.value.trim());
        element(`${name}-dialog`).close();
      } catch (error) {
        this.#showProblem(name, error.message);
      } finally {
        submit.disabled = false;
      }
    });
  }

  #showProblem(name, text) {
    const problem = element(`${name}-problem`);
    setText(problem, text && `That did not work: ${text}.`);
    problem.hidden = !text;
  }

  async #sendAcknowledgement(form) {
    const content = { by: form.elements.by.value.trim(), comment: form.elements.comment.value.trim() };
    this.#on.changed(await sendJson("POST", ackUrl(this.#alarm), content, TIMEOUT_MS));
  }

  async #takeBack(alarm) {
    try {
      this.#on.changed(await sendJson("DELETE", ackUrl(alarm), undefined, TIMEOUT_MS));
    } catch (error) {
      this.#open("ack", alarm);
      this.#showProblem("ack", error.message);
    }
  }

  #matchers() {
    const fields = SCOPES[element("silence-form").elements.scope.value];
    return fields.map((name) => equal(name, this.#alarm[name] ?? ""));
  }

  #showMatchers() {
    setText(element("silence-matchers"), matchersText(this.#matchers()));
  }

  async #sendSilence(form) {
    const starts_ms = now();
    const ends_ms = starts_ms + Number(form.elements.minutes.value) * MINUTE_MS;
    await sendJson(
      "POST",
      "api/silences",
      {
        matchers: this.#matchers(),
        startsAt: new Date(starts_ms).toISOString(),
        endsAt: new Date(ends_ms).toISOString(),
        createdBy: form.elements.by.value.trim(),
        comment: form.elements.comment.value.trim(),
      },
      TIMEOUT_MS,
    );
    this.#on.silences();
  }

  #showSilences() {
    const list = element("silences-list");
    const lasting = this.#silences.filter((silence) => silence.status.state !== "expired");
    const focused = document.activeElement?.closest("#silences-list li")?.dataset.id;
    list.replaceChildren(...lasting.map((silence) => this.#silenceItem(silence)));
    if (focused) (list.querySelector("button") ?? element("silences-close")).focus();
    element("silences-empty").hidden = lasting.length > 0;
  }

  #silenceItem(silence) {
    const item = make("li");
    item.dataset.id = silence.id;
    item.dataset.testid = "silence";
    const text = make("div");
    const from = silence.status.state === "pending" ? `from ${moment(parseTime(silence.startsAt), now())} ` : "";
    const who = [silence.createdBy && `by ${silence.createdBy}`, silence.comment].filter(Boolean).join(": ");
    text.append(make("strong", "", matchersText(silence.matchers)));
    text.append(make("p", "hint", `${from}until ${moment(parseTime(silence.endsAt), now())}${who ? `, ${who}` : ""}`));
    const button = make("button", "", "End now");
    button.type = "button";
    button.dataset.testid = "silence-end";
    button.ariaLabel = `End now: ${matchersText(silence.matchers)}`;
    button.addEventListener("click", () => this.#endSilence(silence, button));
    item.append(text, button);
    return item;
  }

  async #endSilence(silence, button) {
    button.disabled = true;
    try {
      await sendJson("DELETE", `api/silences/${encodeURIComponent(silence.id)}`, undefined, TIMEOUT_MS);
      this.silences = await getJson("api/silences", TIMEOUT_MS);
      this.#on.silences();
    } catch (error) {
      button.disabled = false;
      this.#showProblem("silences", error.message);
    }
  }
}

const ackUrl = (alarm) => `api/alarms/${encodeURIComponent(alarm.alarm_id)}/ack`;
