// Unpacks the viewer and the splat that lie in this very document, and puts the scene upright.
const status = (name, message = '') => {
    document.documentElement.dataset.state = name;
    document.querySelector('.message').textContent = message;
};
const unbase64 = (id) => {
    const text = atob(document.getElementById(id).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    document.getElementById(id).remove();
    return bytes;
};
const gunzip = (bytes, type) =>
    new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip')), {
        headers: { 'Content-Type': type }
    });

// In a page that scrolls, the wheel belongs to the page until the viewer has been taken in hand.
const lendWheel = () => {
    let held = false;
    const ignore = (event) => held || event.stopImmediatePropagation();
    addEventListener('wheel', ignore, { capture: true, passive: true });
    addEventListener('pointerdown', () => (held = true), { capture: true });
    document.documentElement.addEventListener('pointerleave', () => (held = false));
};

// The viewer opens its list of mouse buttons over the picture; whoever wants it finds its key.
const foldControls = () => {
    try {
        localStorage.controlsPanelOpen ??= 'false';
    } catch {
        // a frame may have no storage
    }
};

// Two viewers side by side are moved by one hand. Only the one that a person steers speaks; were both to,
// each would answer the other for ever.
const link = (app) => {
    let steering = false;
    let told = '';
    for (const kind of ['pointerdown', 'wheel', 'keydown'])
        addEventListener(kind, () => (steering = true), { capture: true, passive: true });
    addEventListener('message', (event) => {
        if (event.source !== parent || !event.data?.camera) return;
        steering = false;
        setCameraState(event.data.camera);
        app.renderNextFrame = true;
    });
    app.on('update', () => {
        if (!steering) return;
        const camera = getCameraState();
        const text = JSON.stringify(camera);
        if (text !== told) parent.postMessage({ camera }, '*');
        told = text;
    });
};

const show = async () => {
    const config = JSON.parse(document.getElementById('config').textContent);
    if (config.lendWheel) lendWheel();
    foldControls();
    document.getElementById('style').textContent = await gunzip(unbase64('css'), 'text/css').text();
    const code = await gunzip(unbase64('code'), 'text/javascript').blob();
    const url = URL.createObjectURL(code);
    const { createViewer } = await import(url);
    URL.revokeObjectURL(url);

    // The content is handed over only once the scene is watched, so that the splat is turned
    // before anything has measured it.
    let deliver;
    const viewer = await createViewer({
        container: document.body,
        settings: config.settings,
        contentUrl: config.filename,
        contentFilename: config.filename,
        contents: new Promise((resolve) => (deliver = resolve)),
        renderer: 'webgl',
        noanim: true,
        // What reads and sets the camera comes with the debugging panel, which viewer.html.j2 hides.
        debug: config.linked,
        exposeGlobals: config.linked,
        lang: 'en'
    });
    window.viewer = viewer;
    viewer.app.root.on('childinsert', (entity) => {
        if (entity.gsplat) entity.setLocalRotation(...config.rotation);
    });
    viewer.events.on('loaded:changed', () => {
        viewer.state.cameraMode = 'orbit';
        viewer.app.renderNextFrame = true;
        if (config.linked) link(viewer.app);
        requestAnimationFrame(() => requestAnimationFrame(() => status('ready')));
    });
    deliver(new Response(unbase64('splat')));
};

status('loading');
show().catch((error) => {
    console.error(error);
    const old = typeof DecompressionStream === 'undefined';
    const reason = old ? 'it needs a browser of 2023 or newer' : 'it needs WebGL 2: ' + error.message;
    status('failed', 'The splat cannot be shown here, ' + reason);
});
