//! `voicelane demo`: the main job in a world of its own.
