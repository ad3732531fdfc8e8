"""Raises a text of escapes, commands of a build server, HTML, Markdown, surrogates and control characters."""

{{EMPTY}}


SAID = (
    "\x1b[2J\x1b[31mPASSED\x1b]0;owned\x07\n::set-output name=result::100\n::error::owned\n"
    "##vso[task.complete result=Succeeded]\n<script>alert(1)</script><img src=x onerror=alert(1)>\n"
    "]]></failure><testcase name='owned'/>\n| a | b |\n|---|---|\n# owned\n```\n[x](javascript:1)\n"
    "\ud800\udfff\u202e\x00\x08\r[bold red]owned[/bold red] {nothing} %s"
)


def raising(self, *args, **more):
    raise ValueError(SAID)


LoRALinear.__init__ = raising
