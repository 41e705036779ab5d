"""Provenance: that a model made a picture, in the word that IPTC has for it, as XMP.

Knows a spec and XMP; knows no codec, and no time, so that the same seed makes the same bytes. The words are IPTC's
Digital Source Type (http://cv.iptc.org/newscodes/digitalsourcetype/), which C2PA uses too. No torch here: front and
worker share it.
"""

from __future__ import annotations

from typing import Final

from pipelines.spec import ImageSpec

_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE: Final = _TYPES + "trainedAlgorithmicMedia"
EDITED: Final = _TYPES + "compositeWithTrainedAlgorithmicMedia"  # of a picture that was there before

PNG_KEYWORD: Final = "XML:com.adobe.xmp"  # XMP Specification Part 3, 1.1.5: an iTXt chunk, uncompressed
_PACKET: Final = (
    '<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>{}</Iptc4xmpExt:DigitalSourceType>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
)


def source_type(spec: ImageSpec, *, of_ours: bool = False) -> str:
    """IPTC's term for the pictures of ``spec``: an edit of anything is a composite, whatever is left of it.
    ``of_ours``: its sources were drawn for it."""
    return EDITED if spec.sources and not of_ours else MADE


def xmp(spec: ImageSpec, *, of_ours: bool = False) -> str:
    """The XMP packet that says so."""
    return _PACKET.format(source_type(spec, of_ours=of_ours))
