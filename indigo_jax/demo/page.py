"""The page: what is seen of :mod:`indigo_jax.demo.work`, with gradio (extra ``demo``)."""
import asyncio
import contextlib
import functools
import html
import importlib.util
import os
import pathlib
import shutil
import signal
import tempfile
import threading

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr  # noqa: E402

from indigo_jax import images, operators  # noqa: E402
from indigo_jax.demo import work  # noqa: E402
from indigo_jax.methods.degrading import degrade  # noqa: E402

_TASKS = {"not sure": "auto", "noise": "denoise", "blur": "deblur", "too small": "sr", "JPEG": "jpeg",
          "holes": "inpaint"}
_HEIGHT = 560  # of the pictures
_CLEANING = (600, 3600)  # seconds between looks, and of age: what was uploaded or made is gone after 70 minutes
_CSS = """
.gradio-container { max-width: 1240px !important; padding: 12px 20px !important }
#title p { font-size: 1.05rem; margin: 0 }
#status { min-height: 46px; padding: 0 !important }
#status progress { width: 100%; height: 8px; accent-color: var(--primary-500) }
#status .bad { color: #b42318 } .dark #status .bad { color: #f97066 }
#before img { width: 100%; height: 100%; object-fit: contain }
.example { padding: 4px 8px } .example img { width: 36px; height: 36px; border-radius: 4px; object-fit: cover }
"""
_HINT = "Upload a picture, or take an example."
_NO_WAY = "The steps of a restoration that works on the whole picture in several steps are shown here."
_WAY = "What the network was given at some of its calls, first to last; methods that draw samples begin with noise."
_PAINT, _SAY = "Paint over the holes, then: Restore.", "Say what is wrong, then: Restore."


def launch(host: str = "127.0.0.1", port: int = 7860, desk: work.Desk | None = None) -> None:
    """Serve the page until the process is interrupted.

    Args:
        host: the address to listen at; 0.0.0.0 lets others in.
        port: and its port.
        desk: where restorations are done; default: on all devices.

    Errors:
        OSError where the port is taken.
    """
    folder = tempfile.mkdtemp(prefix="indigo-demo-")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what follows is cleaned up after
    os.environ["GRADIO_TEMP_DIR"] = folder  # uploads and results; nobody else's, and gone with the server
    try:
        page = build(desk or work.Desk(), folder)
        page.queue(default_concurrency_limit=None).launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, show_error=False,
            max_file_size=work.MAX_BYTES, ssr_mode=False, footer_links=[], css=_CSS, theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]))
        kept = set(pathlib.Path(folder).rglob("*"))  # examples
        print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
        every, age = _CLEANING
        while not threading.Event().wait(every):
            work.clean(folder, age, kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build(desk: work.Desk, folder) -> gr.Blocks:
    """The page; results are written below ``folder``."""
    examples = make_examples(folder)
    running: dict[str, work.Job] = {}  # by session
    with gr.Blocks(title="indigo", analytics_enabled=False) as page:
        gr.Markdown("**indigo** restores pictures: noise, blur, low resolution, JPEG artefacts, holes.",
                    elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                upload = gr.File(label="Picture: PNG, JPEG, WebP, BMP or TIFF", height=168, elem_id="upload",
                                 file_types=list(images.EXTENSIONS))
                with gr.Row():
                    buttons = [gr.Button(caption, icon=path, size="sm", min_width=80, elem_classes="example")
                               for caption, path, _ in examples]
                task = gr.Radio(list(_TASKS), value="not sure", label="What is wrong?", elem_id="task")
                sigma = gr.Textbox(label="Noise level, if known", placeholder="of 255; estimated", elem_id="sigma")
                kernel = gr.File(label="Blur kernel, if known: .npy, .npz, .png", height=132, visible=False,
                                 file_types=[".npy", ".npz", ".png"], elem_id="kernel")
                scale = gr.Radio([2, 4, 8], value=4, label="How much larger?", visible=False, elem_id="scale")
                with gr.Accordion("more", open=False, elem_id="more"):
                    method = gr.Dropdown(_methods("auto"), value="auto", label="Method", elem_id="method")
                    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength (noise, JPEG)", elem_id="strength")
                    steps = gr.Textbox(label="Steps", placeholder="as many as the method has", elem_id="steps")
                    seed = gr.Number(0, label="Seed", minimum=0, maximum=2**32 - 1, precision=0, elem_id="seed")
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="go")
                    stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="stop")
                status = gr.HTML(_line(_HINT), elem_id="status")
            with gr.Column(scale=5, min_width=480):
                with gr.Tabs(selected="picture") as tabs:
                    with gr.Tab("Picture", id="picture"):
                        before = gr.Image(interactive=False, height=_HEIGHT, show_label=False, format="png",
                                          buttons=[], elem_id="before")
                        editor = gr.ImageEditor(
                            type="numpy", format="png", visible=False, height=_HEIGHT, show_label=False, sources=(),
                            transforms=(), layers=False, buttons=[], elem_id="editor",
                            brush=gr.Brush(default_size=12, colors=["#ff3b6b"], color_mode="fixed"))
                    with gr.Tab("Before | after", id="result"):
                        slider = gr.ImageSlider(interactive=False, height=_HEIGHT, max_height=_HEIGHT, format="png",
                                                show_label=False, buttons=["fullscreen"], elem_id="slider")
                    with gr.Tab("On the way", id="way"):
                        way_line = gr.HTML(_line(_NO_WAY), elem_id="way-line")
                        way = gr.Gallery(interactive=False, height=_HEIGHT, show_label=False, format="png", columns=4,
                                         object_fit="contain", buttons=["fullscreen"], elem_id="way")
                download = gr.DownloadButton("Download the result", visible=False, elem_id="download")

        def look(path, task):
            """The picture as it is; what was made of another one goes."""
            fresh = {slider: None, download: gr.update(value=None, visible=False), tabs: gr.Tabs(selected="picture"),
                     way: None, way_line: _line(_NO_WAY)}
            if path is None:
                return {**fresh, before: None, editor: None, status: _line(_HINT)}
            try:
                picture = work.read_picture(path)
            except Exception as error:
                return {**fresh, before: None, editor: None, status: _line(work.said(error), bad=True)}
            shown, (height, width) = work.view(picture), picture.pixels.shape[:2]
            holes = _TASKS[task] == "inpaint"
            return {**fresh, before: gr.update(value=shown, visible=not holes),
                    editor: gr.update(value=_canvas(shown), visible=holes),
                    status: _line(f"{width} x {height} pixels. {_PAINT if holes else _SAY}")}

        def ask(path, task):
            """What may be known, by what is wrong."""
            task, canvas = _TASKS[task], None
            if path is not None and task == "inpaint":
                with contextlib.suppress(Exception):  # look has said what is wrong with it
                    canvas = _canvas(work.view(work.read_picture(path)))
            return {sigma: gr.update(visible=task in ("auto", "denoise", "deblur")),
                    kernel: gr.update(visible=task == "deblur"), scale: gr.update(visible=task == "sr"),
                    before: gr.update(visible=task != "inpaint"),
                    editor: gr.update(value=canvas, visible=task == "inpaint"),
                    method: gr.update(choices=_methods(task), value="auto"), tabs: gr.Tabs(selected="picture"),
                    status: _line(_HINT if path is None else _PAINT if task == "inpaint" else "Restore undoes it.")}

        async def restore(path, task, sigma_255, kernel_file, times, painted, by, how_much, count, first,
                          request: gr.Request):
            session, job = request.session_hash, None
            try:
                if path is None:
                    raise work.Refused("upload a picture first")
                picture = await asyncio.to_thread(work.read_picture, path)
                given = _given(_TASKS[task], picture, sigma_255, kernel_file, painted, how_much, count)
                asked = work.Asked(_TASKS[task], by, int(times), int(first or 0), given)
                if session in running:
                    running[session].cancel()
                job = running[session] = desk.submit(picture, asked)
                yield {go: gr.update(visible=False), stop: gr.update(visible=True), status: _line("waiting")}
                while not job.future.done():
                    yield {status: _progress(*job.progress())}
                    await asyncio.sleep(0.25)
                    job.check()
                restored, line = job.future.result()
                file = await asyncio.to_thread(work.write_result, folder, path, restored)
                yield {slider: (work.view(picture, asked.scale if asked.task == "sr" else 1), work.view(restored)),
                       download: gr.update(value=file, visible=True), tabs: gr.Tabs(selected="result"),
                       way: job.way if len(job.way) > 1 else None,
                       way_line: _line(_WAY if len(job.way) > 1 else _NO_WAY), status: _line(line)}
            except work.Cancelled:
                yield {status: _line("Cancelled.")}
            except Exception as error:
                yield {status: _line(work.said(error), bad=True)}
            finally:
                if job is not None:
                    job.cancel()  # nothing, unless the browser went away
                    if running.get(session) is job:
                        del running[session]
            yield {go: gr.update(visible=True), stop: gr.update(visible=False)}

        def cancel(request: gr.Request):
            job = running.get(request.session_hash)
            if job is not None:
                job.cancel()

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        picture_of = {"fn": look, "inputs": [upload, task],
                      "outputs": [before, editor, slider, download, tabs, way, way_line, status]}
        known_of = {"fn": ask, "inputs": [upload, task],
                    "outputs": [sigma, kernel, scale, before, editor, method, tabs, status]}
        gr.on([upload.upload, upload.clear], **picture_of, **quiet)
        task.input(**known_of, **quiet)
        for button, (_, *values) in zip(buttons, examples):
            button.click(functools.partial(tuple, values), None, [upload, task], **quiet).then(
                **known_of, **quiet).then(**picture_of, **quiet)
        go.click(restore, [upload, task, sigma, kernel, scale, editor, method, strength, steps, seed],
                 [go, stop, status, slider, download, tabs, way, way_line], **quiet)
        stop.click(cancel, queue=False, **quiet)
        page.unload(cancel)
    return page


def make_examples(folder) -> list[tuple[str, str, str]]:
    """(caption, file, what is wrong) of a photograph that scikit-image ships, degraded; none without scikit-image."""
    spec = importlib.util.find_spec("skimage")
    source = spec and pathlib.Path(spec.submodule_search_locations[0], "data", "astronaut.png")  # public domain, NASA
    if not source or not source.is_file():
        return []
    photo = images.read(source)
    photo = photo._replace(pixels=photo.pixels[0:256, 96:352])
    examples = []
    for caption, task, operator, suffix in (
            ("noise", "noise", operators.gaussian_noise(sigma_255=25.0), ".png"),
            ("JPEG", "JPEG", operators.jpeg(quality=10), ".jpg"),
            ("small", "too small", operators.super_resolution(factor=4), ".png")):
        path = pathlib.Path(folder, f"{caption.replace(' ', '-')}{suffix}")
        images.write(path, degrade(photo, operator))
        examples.append((caption, str(path), task))
    return examples


def _methods(task):
    return [("auto: what measured best", "auto"), *((name, name) for name in work.methods_for(task))]


def _given(task, picture, sigma_255, kernel_file, painted, strength, steps):
    """The settings that were said, of those that are shown for the task."""
    given = {}
    if sigma_255 and sigma_255.strip() and task in ("auto", "denoise", "deblur"):
        given["sigma_255"] = _number(sigma_255, float, "noise level")
    if kernel_file is not None and task == "deblur":
        given["kernel"] = work.read_kernel(kernel_file)
    if task == "inpaint":
        given["mask"] = work.mask_of((painted or {}).get("layers") or [], *picture.pixels.shape[:2])
    if strength is not None and strength != 1:
        given["strength"] = float(strength)
    if steps and steps.strip():
        given["steps"] = _number(steps, int, "steps")
    return given


def _number(text, kind, name):
    try:
        return kind(text)
    except ValueError as error:
        raise work.Refused(f"{name}: {text.strip()[:40]!r} is not a {'whole ' * (kind is int)}number") from error


def _canvas(shown):
    return {"background": shown, "layers": [], "composite": None}


def _line(text, bad=False):
    return f'<div{" class=bad" if bad else ""}>{html.escape(text)}</div>'


def _progress(share, text):
    return f"<progress{'' if share is None else f' value={share:.3f}'}></progress>{_line(text)}"
