//! A small tree for reading the XML that libvirt answers with.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use whimbrel_virt::DriverError;

/// An element, its namespace prefix dropped. Text is not kept apart from the children's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name.
    pub(crate) name: String,
    /// Its attributes, in order.
    pub(crate) attributes: Vec<(String, String)>,
    /// Its child elements, in order.
    pub(crate) children: Vec<Element>,
    /// Its own text, trimmed.
    pub(crate) text: String,
}

impl Element {
    /// The root of a document.
    pub(crate) fn parse(xml: &str) -> Result<Self, DriverError> {
        parse(xml).map_err(|message| DriverError::Hypervisor {
            doing: "read the hypervisor's XML",
            message,
        })
    }

    /// The first child of that name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub(crate) fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element that the names lead to, first children first.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// An attribute's value.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The text of the element that the names lead to; empty if there is none.
    pub(crate) fn text_at(&self, path: &[&str]) -> &str {
        self.at(path).map_or("", |element| element.text.as_str())
    }
}

fn parse(xml: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<Element> = vec![Element::default()];
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => open.push(element(&start)?),
            Event::Empty(start) => {
                let child = element(&start)?;
                innermost(&mut open).children.push(child);
            }
            Event::End(_) => {
                // The reader has checked that the tags match.
                let child = open.pop().unwrap_or_default();
                innermost(&mut open).children.push(child);
            }
            Event::Text(text) => {
                let text = text.decode().map_err(|error| error.to_string())?;
                innermost(&mut open).text.push_str(text.trim());
            }
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|error| error.to_string())?;
                let character = quick_xml::escape::unescape(&format!("&{name};"))
                    .map_err(|error| error.to_string())?
                    .into_owned();
                innermost(&mut open).text.push_str(&character);
            }
            Event::Eof => break,
            Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
    let document = open.swap_remove(0);
    document.children.into_iter().next().ok_or_else(|| "it has no element".to_owned())
}

fn innermost(open: &mut [Element]) -> &mut Element {
    open.last_mut().expect("the document itself stays open until the end")
}

fn element(start: &BytesStart<'_>) -> Result<Element, String> {
    let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
        let value = attribute.unescape_value().map_err(|error| error.to_string())?.into_owned();
        attributes.push((key, value));
    }
    Ok(Element { name, attributes, ..Element::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_text_are_found() {
        let root = Element::parse(
            "<?xml version='1.0'?><d type='q'><!-- x --><n> a &amp; b </n><m><w:i e='3&lt;'/></m></d>",
        )
        .unwrap();
        assert_eq!(root.name, "d");
        assert_eq!(root.attribute("type"), Some("q"));
        assert_eq!(root.text_at(&["n"]), "a&b");
        assert_eq!(root.at(&["m", "i"]).and_then(|i| i.attribute("e")), Some("3<"));
        assert_eq!(root.at(&["m", "none"]), None);
        assert_eq!(root.children_named("n").count(), 1);
    }

    #[test]
    fn what_is_not_xml_is_an_error() {
        for xml in ["", "<a>", "<a></b>", "text", "<a b=1/>"] {
            assert!(Element::parse(xml).is_err(), "{xml}");
        }
    }
}
