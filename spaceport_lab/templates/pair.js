// Hands what one viewer tells about its camera on to the others.
const frames = [...document.querySelectorAll('iframe')];
addEventListener('message', (event) => {
    if (!event.data?.camera || !frames.some((frame) => frame.contentWindow === event.source)) return;
    for (const frame of frames)
        if (frame.contentWindow !== event.source) frame.contentWindow.postMessage({ camera: event.data.camera }, '*');
});
