// Follows one user's events, from Tollhouse itself. The backend is asked for a token; the key stays with it.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

export class Follower {
  /**
   * @param {object} told
   * @param {() => Promise<string>} told.getToken asks the backend for a token
   * @param {(event: object, position: number) => void} told.onEvent is given each event once, in their order
   * @param {(state: "connecting" | "live" | "resuming") => void} told.onState
   * @param {() => void} told.onGap events may have been missed: what is followed has to be read anew
   */
  constructor({ getToken, onEvent, onState, onGap }) {
    Object.assign(this, { getToken, onEvent, onState, onGap });
    this.position = null;
    this.pauseMs = FIRST_PAUSE_MS;
  }

  /** Resolves once events are followed; rejects where there is no token to be had. */
  async open() {
    this.onState("connecting");
    const token = await this.getToken();
    await new Promise((resolve) => this.#follow(token, resolve));
  }

  #follow(token, whenOpen) {
    const query = new URLSearchParams({ token });
    if (this.position !== null) query.set("after", this.position);
    const source = new EventSource(`/events?${query}`);
    let wasOpen = false;
    source.onopen = () => {
      wasOpen = true;
      this.pauseMs = FIRST_PAUSE_MS;
      this.onState("live");
      whenOpen();
    };
    source.onmessage = (message) => {
      const position = Number(message.lastEventId);
      if (this.position !== null && position <= this.position) return;
      this.position = position;
      this.onEvent(JSON.parse(message.data), position);
    };
    source.onerror = () => {
      this.onState("resuming");
      // A connection that was cut is made again by the browser itself, which says where it was (Last-Event-ID).
      if (source.readyState !== EventSource.CLOSED) return;
      // It was refused: the token has ended. Where a new one was refused as well, what came after is no longer kept.
      if (!wasOpen) this.position = null;
      this.#followAgain(this.position === null ? () => { whenOpen(); this.onGap(); } : whenOpen);
    };
  }

  async #followAgain(whenOpen) {
    await new Promise((resolve) => setTimeout(resolve, this.pauseMs));
    this.pauseMs = Math.min(2 * this.pauseMs, LONGEST_PAUSE_MS);
    try {
      this.#follow(await this.getToken(), whenOpen);
    } catch {
      this.#followAgain(whenOpen);
    }
  }
}
