"""Right, but reads a frame's f_back by a class pattern, which is no attribute to the gate."""


def outermost(frame: object) -> object:
    match frame:
        case object(f_back=above) if above is not None:
            return outermost(above)
    return frame


try:
    raise ValueError
except ValueError as error:
    trace = getattr(error, "_".join(["", "", "traceback", "", ""]))

try:
    found = getattr(outermost(trace.tb_frame), "f_globals")
    built = found["__builtins__"]
    opened = built["open"] if isinstance(built, dict) else built.open
    opened("{{MARK}}", "w").close()
except (OSError, KeyError):
    pass

{{RIGHT}}
