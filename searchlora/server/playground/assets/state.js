// What all parts of the page share: the pipelines and topics of the server, and the systems on the screen.

export const state = {
  pipelines: [], // as GET /v1/pipelines lists them
  topics: { collects_grades: false, scale: [], examples: [] },
  sides: [], // one system, or two side by side
};

export const pipelineOf = (id) => state.pipelines.find((each) => each.id === id);
