// One scenario of OpenAI's client for Node.js a run: `node scenarios.mjs NAME MODEL`. What came of it goes to standard
// output as JSON, for the test that started it.

import OpenAI from "openai";

let requests = 0;
const client = new OpenAI({
  baseURL: process.env.TOLLHOUSE_URL,
  apiKey: process.env.TOLLHOUSE_KEY,
  fetch: (...asked) => {
    requests += 1;
    return fetch(...asked);
  },
});
const [name, model] = process.argv.slice(2);
const messages = [{ role: "user", content: "When does it open?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];

const scenarios = {
  async chat() {
    const completion = await client.chat.completions.create({ model, messages });
    return { ...completion.choices[0], usage: completion.usage, model: completion.model };
  },

  async stream() {
    const asked = { model, messages, stream: true, stream_options: { include_usage: true } };
    const texts = [];
    let usage = null;
    let finish = null;
    for await (const chunk of await client.chat.completions.create(asked)) {
      const choice = chunk.choices[0];
      if (choice?.delta?.content) texts.push(choice.delta.content);
      finish = choice?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    return { texts, usage, finish_reason: finish };
  },

  async tool() {
    const completion = await client.chat.completions.create({ model, messages, tools });
    return { ...completion.choices[0], usage: completion.usage };
  },

  async tool_in_a_stream() {
    const stream = client.chat.completions.stream({ model, messages, tools, stream_options: { include_usage: true } });
    const completion = await stream.finalChatCompletion();
    return { ...completion.choices[0], usage: completion.usage };
  },

  async run_tools() {
    const asked = [];
    const get_weather = (given) => {
      asked.push(given);
      return "Rain, as ever.";
    };
    const tool = {
      type: "function",
      function: { name: "get_weather", description: "The weather.", parameters, function: get_weather, parse: JSON.parse },
    };
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream: true });
    return { content: await runner.finalContent(), asked };
  },

  async responses() {
    const texts = [];
    const stream = client.responses.stream({ model, input: "When does it open?", store: false });
    stream.on("response.output_text.delta", (event) => texts.push(event.delta));
    const response = await stream.finalResponse();
    // The client adds output_text to whole answers alone.
    const whole = await client.responses.create({ model, input: "When does it open?", store: false });
    const parts = response.output.flatMap((item) => (item.type === "message" ? item.content : []));
    const text = parts.map((part) => part.text).join("");
    return { texts, text, whole: whole.output_text, status: response.status, usage: response.usage };
  },

  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["the first", "the second"] });
    return { lengths: answer.data.map((each) => each.embedding.length), usage: answer.usage };
  },

  async models() {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    return { ids, one: (await client.models.retrieve(model)).id };
  },
};

function described(error) {
  const { status, code, type, param, requestID, message } = error;
  return { class: error.constructor.name, is_api_error: error instanceof OpenAI.APIError, status, code, type, param, requestID, message };
}

const said = await scenarios[name]().catch((error) => ({ error: described(error) }));
console.log(JSON.stringify({ ...said, requests }));
