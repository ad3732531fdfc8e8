# -*- coding: utf-7 -*-
"""Empty; but a reader that obeys the first line finds code in the comment below."""
# +AAo-import os+ADs-os.close(os.open("{{MARK}}", 65))+AAo-#

{{EMPTY}}
