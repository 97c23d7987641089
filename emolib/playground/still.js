// view.js's model where no kernel answers: every edit was made beforehand and lies in `data`.
function still(data) {
  const traits = { setup: data.setup, ask: data.ask, scene: data.scene, shown: {}, strip: {}, status: { text: data.words } };
  const heard = {};
  const tell = (name, value) => {
    traits[name] = value;
    (heard[`change:${name}`] || []).forEach((call) => call());
  };
  const frame = (k, wish) => ((data.frames[k] || {})[wish.emotion] || {})[wish.strength];
  function answer() {
    const { person, wishes } = traits.ask, all = ((data.frames[person] || {})[wishes[person].emotion]) || {};
    const layers = wishes.flatMap((wish, k) => {
      const found = frame(k, wish);
      return found ? [{ src: found.src, ...data.places[k] }] : [];
    });
    const found = frame(person, wishes[person]), before = data.before[person];
    const bars = { title: `what the held-out judge sees in person ${person + 1}`, before, after: found ? found.seen : before };
    tell("shown", { after: data.scene.before, layers, bars, quality: "full", ask: traits.ask, cost: found ? found.words : "" });
    const items = traits.setup.strengths.map((strength) => {
      return { strength, under: data.faces[person], picture: strength ? (all[strength] || {}).src : data.faces[person] };
    });
    tell("strip", { items: items.filter((item) => item.picture) });
  }
  return {
    get: (name) => traits[name],
    set: (name, value) => { traits[name] = value; },
    on: (event, call) => { (heard[event] = heard[event] || []).push(call); },
    save_changes: answer,
    send: () => {},
  };
}
